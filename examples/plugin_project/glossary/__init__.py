"""An example of a project that extends Finesmith: it teaches a model the words of a house."""
