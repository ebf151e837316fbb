"""Dense layers: forward pass and gradients, float32."""
