"""All Kubernetes I/O: the client, the cache of watched objects, leader election, and the guards of writes."""
