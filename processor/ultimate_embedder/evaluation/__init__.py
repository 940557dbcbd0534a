"""How well a bundle is searched: judged queries in, figures of every stage out."""
