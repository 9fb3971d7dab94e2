"""What is trained step by step by the one loop: losses, optimisers and schedules around networks."""
