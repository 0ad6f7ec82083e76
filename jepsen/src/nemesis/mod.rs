//! Carries out a schedule of faults, and says what came of each.
