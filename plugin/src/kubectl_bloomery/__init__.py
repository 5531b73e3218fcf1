"""The kubectl plugin ``kubectl bloomery``; all its commands reach the cluster through kubectl."""
