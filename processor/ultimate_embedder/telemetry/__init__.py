"""Events, and the listeners that turn them into logs, spans, metrics and progress."""
