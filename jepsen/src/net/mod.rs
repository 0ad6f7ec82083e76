//! The network between the nodes, packet by packet.
