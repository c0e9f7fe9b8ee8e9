"""Models behind a server that speaks OpenAI's protocol: what is asked of it, and how."""
