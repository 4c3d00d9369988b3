"""What a request costs: `python -m benchmarks` compares prefork with the floor and with uWSGI, side by side."""
