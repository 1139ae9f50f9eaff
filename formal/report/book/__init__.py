"""The review book: the document, the claims, their verdicts and their evidence as static pages."""
