"""From the command line to a function that runs in every process, on one machine or several."""
