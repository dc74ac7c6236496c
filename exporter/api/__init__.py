"""The Analytics API: requests within the budget, and answers as values."""
