"""Run the steps on a Ray cluster, or on a Ray of this machine. Only this folder and training import Ray."""
