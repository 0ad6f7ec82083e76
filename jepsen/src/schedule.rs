//! What happens to the cluster when: a pure function of the seed.
