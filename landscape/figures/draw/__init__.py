"""What figures share: style, scales, labels, series, and which results may stand side by side."""
