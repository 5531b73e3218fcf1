"""All Kubernetes I/O: the kinds, the client, and the projection of what the watches last said."""
