//! Watches: ordered, without gaps, without repetition, nothing but the truth.

use crate::audit::Truth;
use crate::history::{Stream, Told};

/// Each stream told exactly what happened to its keys between its beginning and its end.
pub(super) fn judge(streams: &[Stream], truth: &Truth) -> Result<(), String> {
    for (number, stream) in streams.iter().enumerate() {
        let happened = truth.changes.iter().filter(|told| {
            told.index > stream.from && told.index <= stream.through && told.key.starts_with(&stream.prefix)
        });
        let happened: Vec<&Told> = happened.collect();
        let told: Vec<&Told> = stream.told.iter().collect();
        if happened != told {
            let place = happened.iter().zip(&told).take_while(|(a, b)| a == b).count();
            return Err(format!(
                "stream {number} of n{} over {:?} from {} through {}: at {place} happened {:?} and was told {:?}",
                stream.node,
                stream.prefix,
                stream.from,
                stream.through,
                happened.get(place),
                told.get(place)
            ));
        }
    }
    Ok(())
}
