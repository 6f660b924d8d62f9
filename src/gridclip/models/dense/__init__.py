"""Backbone, neck and head: the parts a dense detector is made of."""
