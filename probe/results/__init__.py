"""What the commands answer: types only. A field's name is its JSON key."""
