"""What happens at each instant of a step: threads, pieces of operators, device work, causes of waiting."""
