"""How good mattes are: figures, and reports of them. Never imported by the main job."""
