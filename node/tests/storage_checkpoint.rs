//! What an engine of checkpoints promises, for each engine.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use spine_node::storage::checkpoint::{
    CheckpointError, Chunk, Chunks, Engine, Generation, Header, Loaded, VALUE_BYTES_MAX,
};
use spine_node::storage::memory::MemoryEngine;
use spine_node::storage::sled::{SledEngine, SledOptions};

/// An engine, how to start it again, and how to let a generation rot.
trait Bench {
    fn engine(&self) -> Arc<dyn Engine>;
    fn restarted(&self) -> Arc<dyn Engine>;
    fn rot(&self, generation: Generation);
}

struct Memory(MemoryEngine);

impl Bench for Memory {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::new(self.0.clone())
    }

    fn restarted(&self) -> Arc<dyn Engine> {
        self.0.crash();
        self.engine()
    }

    fn rot(&self, generation: Generation) {
        self.0.rot(generation);
    }
}

struct Sled {
    dir: tempfile::TempDir,
}

impl Sled {
    fn path(&self) -> PathBuf {
        self.dir.path().join("checkpoint")
    }

    fn database(&self, generation: Generation) -> PathBuf {
        self.path().join(format!("{:016x}", generation.0)).join("db")
    }
}

impl Bench for Sled {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::new(SledEngine::open(self.path(), SledOptions::default()).unwrap())
    }

    fn restarted(&self) -> Arc<dyn Engine> {
        self.engine()
    }

    /// Changes bytes all over the database.
    fn rot(&self, generation: Generation) {
        let path = self.database(generation);
        let mut bytes = fs::read(&path).unwrap();
        for byte in bytes.iter_mut().step_by(997) {
            *byte ^= 0x20;
        }
        fs::write(&path, bytes).unwrap();
    }
}

fn on_each_engine(test: impl Fn(&dyn Bench)) {
    test(&Memory(MemoryEngine::new()));
    test(&Sled {
        dir: tempfile::tempdir().unwrap(),
    });
}

fn header(log_index: u64) -> Header {
    Header {
        log_index,
        meta: Bytes::from(format!("meta {log_index}")),
    }
}

fn chunks(seed: u64, count: u64) -> Vec<Chunk> {
    (0..count)
        .map(|n| Chunk {
            key: Bytes::copy_from_slice(&n.to_be_bytes()),
            value: Bytes::from(format!("{seed} {n} ").repeat(usize::try_from(n % 700).unwrap())),
        })
        .collect()
}

fn accept(_: &Header, chunks: &mut Chunks<'_>) -> Result<(), String> {
    for chunk in chunks {
        chunk.map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn write(engine: &dyn Engine, log_index: u64) -> Result<Generation, CheckpointError> {
    engine.write(
        &header(log_index),
        &mut chunks(log_index, 900).into_iter(),
        &mut accept,
    )
}

/// Loads the newest and compares its content with what [`write`] wrote.
fn load(engine: &dyn Engine) -> Result<Option<Loaded>, CheckpointError> {
    let mut found = Vec::new();
    let loaded = engine.newest_verified(&mut |_, chunks| {
        found = chunks
            .collect::<Result<_, _>>()
            .map_err(|error: CheckpointError| error.to_string())?;
        Ok(())
    })?;
    if let Some(loaded) = &loaded {
        assert_eq!(loaded.header, header(loaded.header.log_index));
        assert_eq!(found, chunks(loaded.header.log_index, 900));
    }
    Ok(loaded)
}

#[test]
fn an_empty_engine_has_none() {
    on_each_engine(|bench| {
        assert_eq!(load(&*bench.engine()).unwrap(), None);
        assert_eq!(bench.engine().log_index_kept().unwrap(), None);
    });
}

#[test]
fn the_newest_generation_is_found_after_a_restart_and_two_are_kept() {
    on_each_engine(|bench| {
        let engine = bench.engine();
        for (number, log_index) in [10, 20, 30, 40].into_iter().enumerate() {
            assert_eq!(write(&*engine, log_index).unwrap(), Generation(number as u64));
        }
        assert_eq!(engine.log_index_kept().unwrap(), Some(30));
        let engine = bench.restarted();
        let loaded = load(&*engine).unwrap().unwrap();
        assert_eq!((loaded.generation, loaded.header.log_index), (Generation(3), 40));
        assert_eq!(engine.log_index_kept().unwrap(), Some(30));
        // Reading changes nothing.
        assert_eq!(load(&*engine).unwrap().unwrap(), loaded);
    });
}

#[test]
fn a_rotten_generation_is_made_up_for_by_the_one_before() {
    on_each_engine(|bench| {
        let engine = bench.engine();
        for log_index in [10, 20, 30] {
            write(&*engine, log_index).unwrap();
        }
        bench.rot(Generation(2));
        let engine = bench.restarted();
        let loaded = load(&*engine).unwrap().unwrap();
        assert_eq!((loaded.generation, loaded.header.log_index), (Generation(1), 20));
        assert_eq!(loaded.passed_over.len(), 1);
        // The next checkpoint replaces the rotten one, not the good one.
        assert_eq!(write(&*engine, 40).unwrap(), Generation(3));
        assert_eq!(engine.log_index_kept().unwrap(), Some(20));
        bench.rot(Generation(3));
        assert_eq!(
            load(&*bench.restarted()).unwrap().unwrap().generation,
            Generation(1)
        );
        bench.rot(Generation(1));
        assert!(matches!(
            load(&*bench.restarted()),
            Err(CheckpointError::NoneVerified(_))
        ));
    });
}

#[test]
fn what_the_verifier_refuses_never_counts() {
    on_each_engine(|bench| {
        let engine = bench.engine();
        write(&*engine, 10).unwrap();
        let refused = engine.write(&header(20), &mut chunks(20, 900).into_iter(), &mut |_, _| {
            Err("digest differs".to_owned())
        });
        assert!(
            matches!(refused, Err(CheckpointError::Damaged { .. })),
            "{refused:?}"
        );
        assert_eq!(load(&*bench.restarted()).unwrap().unwrap().header.log_index, 10);
        // At a start the verifier may refuse too, and sends the engine to the generation before.
        write(&*engine, 30).unwrap();
        let loaded = engine.newest_verified(&mut |header, _| {
            if header.log_index == 30 {
                Err("digest differs".to_owned())
            } else {
                Ok(())
            }
        });
        assert_eq!(loaded.unwrap().unwrap().header.log_index, 10);
    });
}

#[test]
fn bounds_and_order_of_chunks_are_kept() {
    on_each_engine(|bench| {
        let engine = bench.engine();
        let chunk = |key: &'static [u8], value: usize| Chunk {
            key: Bytes::from_static(key),
            value: Bytes::from(vec![0; value]),
        };
        for bad in [
            vec![chunk(b"", 1)],
            vec![chunk(b"a", VALUE_BYTES_MAX + 1)],
            vec![chunk(b"b", 1), chunk(b"a", 1)],
            vec![chunk(b"a", 1), chunk(b"a", 1)],
        ] {
            let refused = engine.write(&header(1), &mut bad.into_iter(), &mut accept);
            assert!(matches!(refused, Err(CheckpointError::Refused(_))), "{refused:?}");
        }
        assert_eq!(load(&*engine).unwrap(), None);
        let largest: Vec<Chunk> = (0..100_u8)
            .map(|n| Chunk {
                key: Bytes::from(vec![n; 256]),
                value: Bytes::from(vec![n; VALUE_BYTES_MAX]),
            })
            .collect();
        engine
            .write(&header(1), &mut largest.clone().into_iter(), &mut accept)
            .unwrap();
        let mut found = Vec::new();
        engine
            .newest_verified(&mut |_, chunks| {
                found = chunks.map(Result::unwrap).collect();
                Ok(())
            })
            .unwrap();
        assert!(found == largest);
    });
}

#[test]
fn an_empty_state_is_a_checkpoint_too() {
    on_each_engine(|bench| {
        bench
            .engine()
            .write(&header(0), &mut std::iter::empty(), &mut accept)
            .unwrap();
        let engine = bench.restarted();
        assert_eq!(
            engine.newest_verified(&mut accept).unwrap().unwrap().header,
            header(0)
        );
        assert_eq!(engine.log_index_kept().unwrap(), Some(0));
    });
}

#[test]
fn an_interrupted_checkpoint_leaves_the_one_before() {
    let whole = 900 + 3;
    for steps in (0..=whole).step_by(50).chain(whole - 4..=whole) {
        let engine = MemoryEngine::new();
        write(&engine, 10).unwrap();
        engine.interrupt_after(steps);
        let interrupted = write(&engine, 20);
        engine.crash();
        let expected = if steps < whole - 1 { 10 } else { 20 };
        assert_eq!(interrupted.is_ok(), steps >= whole, "{steps}");
        assert_eq!(
            load(&engine).unwrap().unwrap().header.log_index,
            expected,
            "{steps}"
        );
        write(&engine, 30).unwrap();
    }
}

/// What sled leaves half done in its directory is cleaned up, and a lost `current` doesn't lose the generations.
#[test]
fn leftovers_of_a_crash_are_removed() {
    let bench = Sled {
        dir: tempfile::tempdir().unwrap(),
    };
    let engine = bench.engine();
    write(&*engine, 10).unwrap();
    write(&*engine, 20).unwrap();
    let unfinished = bench.path().join(format!("{:016x}", 2));
    fs::create_dir(&unfinished).unwrap();
    fs::write(unfinished.join("db"), b"half").unwrap();
    fs::create_dir(bench.path().join("read-0000000000000001")).unwrap();
    let engine = bench.restarted();
    assert_eq!(load(&*engine).unwrap().unwrap().header.log_index, 20);
    assert_eq!(directories(&bench.path()), 2);

    fs::write(
        bench.path().join("current"),
        b"spine checkpoint 1\n1 20\ncrc 00000000\n",
    )
    .unwrap();
    let engine = bench.restarted();
    assert_eq!(load(&*engine).unwrap().unwrap().header.log_index, 20);
    assert_eq!(
        engine.log_index_kept().unwrap(),
        Some(0),
        "keep the log until it is known again"
    );
    write(&*engine, 30).unwrap();
    assert_eq!(load(&*bench.restarted()).unwrap().unwrap().header.log_index, 30);
}

/// A generation is never written again: reading it leaves its files as they were.
#[test]
fn reading_leaves_the_files_alone() {
    let bench = Sled {
        dir: tempfile::tempdir().unwrap(),
    };
    write(&*bench.engine(), 10).unwrap();
    let before = fs::read(bench.database(Generation(0))).unwrap();
    load(&*bench.restarted()).unwrap();
    assert!(fs::read(bench.database(Generation(0))).unwrap() == before);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "what writing really takes is measured")]
fn writing_keeps_the_rate() {
    let dir = tempfile::tempdir().unwrap();
    let paused = Arc::new(AtomicU64::new(0));
    let total = Arc::clone(&paused);
    let options = SledOptions {
        bytes_per_second: 1024 * 1024,
        pause: Arc::new(move |time: Duration| {
            // Short ones wait for sled's own threads, which need the time.
            if time < Duration::from_millis(100) {
                return std::thread::sleep(time);
            }
            total.fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::Relaxed);
        }),
    };
    let engine = SledEngine::open(dir.path().to_owned(), options).unwrap();
    let chunks = (0..320_u64).map(|n| Chunk {
        key: Bytes::copy_from_slice(&n.to_be_bytes()),
        value: Bytes::from(vec![1; VALUE_BYTES_MAX]),
    });
    let began = std::time::Instant::now();
    engine.write(&header(1), &mut { chunks }, &mut accept).unwrap();
    let written = u64::try_from(began.elapsed().as_millis()).unwrap();
    // 20 MiB at 1 MiB/s; the last part, below 4 MiB, isn't waited for. Time really spent writing needs no pause.
    let paused = paused.load(Ordering::Relaxed);
    assert!(
        paused + written >= 16_000 && paused < 22_000,
        "{paused} ms asked for, {written} ms spent"
    );
}

fn directories(path: &Path) -> usize {
    fs::read_dir(path)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_dir())
        .count()
}
