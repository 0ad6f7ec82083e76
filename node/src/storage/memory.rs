//! Checkpoints in memory: what a simulated node keeps, and what it forgets when its power is cut.
//!
//! It does what [`sled`](super::sled) does, step by step: chunks, flush, verification, switch, removal. A crash at any
//! step ([`interrupt_after`](MemoryEngine::interrupt_after)) leaves what had been flushed until then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::checkpoint::{
    CheckpointError, Chunk, Engine, Generation, Header, Kept, Loaded, Verifier, check_chunk, check_header,
    newest_good,
};

/// Checkpoints in memory. Clones share them, so a node that is started again finds what its predecessor left.
#[derive(Clone, Debug, Default)]
pub struct MemoryEngine(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    generations: BTreeMap<Generation, Stored>,
    /// The generations that count, newest first.
    kept: Vec<Kept>,
    bad: BTreeSet<Generation>,
    /// Steps until the power is cut.
    steps_left: Option<u64>,
}

#[derive(Debug)]
struct Stored {
    header: Header,
    chunks: Vec<StoredChunk>,
    flushed: bool,
    /// Count of chunks when it was complete.
    complete: Option<usize>,
}

#[derive(Debug)]
struct StoredChunk {
    chunk: Chunk,
    checksum: u32,
}

impl StoredChunk {
    fn new(chunk: Chunk) -> Self {
        let checksum = checksum(&chunk);
        Self { chunk, checksum }
    }
}

fn checksum(chunk: &Chunk) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&chunk.key), &chunk.value)
}

impl MemoryEngine {
    /// Without any checkpoint.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cuts the power: forgets what was not flushed, and what the process knew.
    pub fn crash(&self) {
        let mut state = self.0.lock();
        state.generations.retain(|_, stored| stored.flushed);
        state.bad.clear();
        state.steps_left = None;
    }

    /// Lets the write after `steps` more steps fail: each chunk, the flush, the switch and the removal is one. The
    /// test then calls [`crash`](Self::crash).
    pub fn interrupt_after(&self, steps: u64) {
        self.0.lock().steps_left = Some(steps);
    }

    /// Lets a generation rot: changes a bit of one of its chunks, or loses its end if it has none.
    pub fn rot(&self, generation: Generation) {
        let mut state = self.0.lock();
        let Some(stored) = state.generations.get_mut(&generation) else {
            return;
        };
        match stored.chunks.last_mut() {
            Some(stored) => {
                let mut value = stored.chunk.value.to_vec();
                match value.first_mut() {
                    Some(byte) => *byte ^= 1,
                    None => value.push(0),
                }
                stored.chunk.value = Bytes::from(value);
            }
            None => stored.complete = None,
        }
    }

    /// The generations that count, newest first.
    pub fn generations(&self) -> Vec<Generation> {
        self.0.lock().kept.iter().map(|kept| kept.generation).collect()
    }
}

impl State {
    fn step(&mut self) -> Result<(), CheckpointError> {
        match &mut self.steps_left {
            None => Ok(()),
            Some(0) => Err(CheckpointError::io("write a checkpoint")("the power is off")),
            Some(steps) => {
                *steps -= 1;
                Ok(())
            }
        }
    }

    fn remove_unfinished(&mut self) {
        let kept = &self.kept;
        self.generations
            .retain(|generation, _| kept.iter().any(|kept| kept.generation == *generation));
    }

    fn fill(
        &mut self,
        generation: Generation,
        chunks: &mut dyn Iterator<Item = Chunk>,
    ) -> Result<(), CheckpointError> {
        let mut previous = None;
        for chunk in chunks {
            check_chunk(&chunk, previous.as_ref())?;
            self.step()?;
            previous = Some(chunk.key.clone());
            self.stored(generation).chunks.push(StoredChunk::new(chunk));
        }
        self.step()?;
        let stored = self.stored(generation);
        stored.complete = Some(stored.chunks.len());
        stored.flushed = true;
        Ok(())
    }

    fn stored(&mut self, generation: Generation) -> &mut Stored {
        self.generations
            .get_mut(&generation)
            .expect("the caller has put it there")
    }

    fn load(&self, generation: Generation, verify: &mut Verifier<'_>) -> Result<Header, CheckpointError> {
        let damaged = |what: &str| CheckpointError::damaged(generation, what);
        let stored = self
            .generations
            .get(&generation)
            .ok_or_else(|| damaged("it is gone"))?;
        if stored.complete != Some(stored.chunks.len()) {
            return Err(damaged("chunks are missing"));
        }
        let mut chunks = stored.chunks.iter().enumerate().map(|(number, stored)| {
            if checksum(&stored.chunk) == stored.checksum {
                Ok(stored.chunk.clone())
            } else {
                Err(damaged(&format!("chunk {number} can't be read")))
            }
        });
        verify(&stored.header, &mut chunks).map_err(|reason| damaged(&reason))?;
        chunks.try_for_each(|chunk| chunk.map(|_| ()))?;
        Ok(stored.header.clone())
    }
}

impl Engine for MemoryEngine {
    fn write(
        &self,
        header: &Header,
        chunks: &mut dyn Iterator<Item = Chunk>,
        verify: &mut Verifier<'_>,
    ) -> Result<Generation, CheckpointError> {
        check_header(header)?;
        let mut state = self.0.lock();
        state.remove_unfinished();
        let generation = Generation(
            state
                .generations
                .last_key_value()
                .map_or(0, |(newest, _)| newest.0 + 1),
        );
        let stored = Stored {
            header: header.clone(),
            chunks: Vec::new(),
            flushed: false,
            complete: None,
        };
        state.generations.insert(generation, stored);
        state.fill(generation, chunks)?;
        state.load(generation, verify)?;
        state.step()?;
        let before = state
            .kept
            .iter()
            .find(|kept| !state.bad.contains(&kept.generation))
            .copied();
        state.kept = [Kept {
            generation,
            log_index: header.log_index,
        }]
        .into_iter()
        .chain(before)
        .collect();
        state.step()?;
        state.remove_unfinished();
        Ok(generation)
    }

    fn newest_verified(&self, verify: &mut Verifier<'_>) -> Result<Option<Loaded>, CheckpointError> {
        let mut state = self.0.lock();
        let candidates: Vec<Generation> = state.kept.iter().map(|kept| kept.generation).collect();
        if candidates.is_empty() {
            return Ok(None);
        }
        let mut bad = std::mem::take(&mut state.bad);
        let loaded = newest_good(&candidates, &mut bad, |generation| state.load(generation, verify));
        state.bad = bad;
        loaded.map(Some)
    }

    fn log_index_kept(&self) -> Result<Option<u64>, CheckpointError> {
        let state = self.0.lock();
        let good = state
            .kept
            .iter()
            .filter(|kept| !state.bad.contains(&kept.generation));
        Ok(good.map(|kept| kept.log_index).min())
    }
}
