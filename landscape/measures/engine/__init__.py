"""What the measures stand on: the ball, the ways to climb in it, blocks of examples, noise."""
