"""What one trial is: the classifier, its training, its metrics and its durable record."""
