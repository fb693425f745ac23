"""What watches a training run: throughput, results, pictures, interruptions."""
