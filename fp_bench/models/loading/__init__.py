"""What loading a model needs: its file and configuration checked, its imports made once."""
