"""Random datasets with known class differences."""
