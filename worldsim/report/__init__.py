"""The self-contained page a job leaves behind: records of what it says, drawings, films, one HTML file."""
