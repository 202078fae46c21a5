"""Skills: what falling loss says of skills and of their combinations (Arora & Goyal 2023)."""
