"""What all figures stand on: the server, Kennel's processes, the floor, the peers, the results."""
