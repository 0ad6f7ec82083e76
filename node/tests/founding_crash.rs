//! The power fails at every step of a first start among several: what was told to others is there afterwards.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{collections::BTreeMap, path::Path, sync::Arc};

use spine_node::{
    World,
    raft::{
        Peer,
        bootstrap::{self, Beginning, FirstStart, Found, Opened, StartError},
        founding::Founding,
        identity::ClusterId,
        recall::{Durable, Recall},
        starts::Boot,
    },
    storage::{log::LogHooks, memory::MemoryEngine, segment::LogOptions},
    world::files::Files,
};

#[path = "../../tests/src/disk.rs"]
#[allow(unreachable_pub, dead_code)]
mod disk;

use disk::{Faults, Rng, SimDisk, Unlocked};

const DIR: &str = "/data";
/// Each step is cut so often, as each time the disk keeps something else of what was not flushed.
const CUTS: u64 = 8;

/// What is left of a server between its lives.
#[derive(Default)]
struct Remains {
    disk: SimDisk,
    engine: MemoryEngine,
}

impl Remains {
    fn open(&self) -> Result<Found, StartError> {
        let engine = self.engine.clone();
        let world = World {
            files: Arc::new(self.disk.clone()),
            locks: Arc::new(Unlocked),
            engine: Arc::new(move |_| Ok(Arc::new(engine.clone()))),
            ..World::real()
        };
        let options = LogOptions {
            segment_bytes: 64 << 10,
            spares: 0,
            ..LogOptions::default()
        };
        let hooks = LogHooks::fatal(|_| {});
        bootstrap::open(&world, Path::new(DIR), options, hooks, FirstStart::Together)
    }

    fn after_crash(&self, rng: &mut Rng) -> Self {
        self.engine.crash();
        Self {
            disk: self.disk.after_crash(rng),
            engine: self.engine.clone(),
        }
    }
}

/// What a server may have told others before its power failed.
#[derive(Debug, Default)]
struct Told {
    node: Option<u64>,
    boot: Option<Boot>,
    founding: Option<Founding>,
    began: bool,
}

fn founding(node: u64) -> Founding {
    let peer = |name: &str| Peer {
        name: name.to_owned(),
        address: format!("{name}:8300"),
    };
    Founding {
        cluster: ClusterId(77),
        members: BTreeMap::from([(node, peer("a")), (u64::MAX, peer("b"))]),
    }
}

/// A first start as far as the power lasts.
fn live(remains: &Remains, told: &mut Told) -> Result<(), StartError> {
    let mut beginning = empty(remains.open()?);
    told.node = Some(beginning.node());
    told.boot = Some(beginning.starts().present());
    let founding = founding(beginning.node());
    beginning.found(founding.clone())?;
    told.founding = Some(founding);
    beginning.begin()?;
    told.began = true;
    Ok(())
}

fn empty(found: Found) -> Box<Beginning> {
    match found {
        Found::Empty(beginning) => beginning,
        Found::Node(_) => panic!("the directory was empty"),
    }
}

/// The next start, which goes all the way.
fn come_back(remains: &Remains, told: &Told) -> Opened {
    let opened = match remains.open().unwrap() {
        Found::Node(opened) => *opened,
        Found::Empty(mut beginning) => {
            assert!(!told.began, "a node is never empty again");
            if let Some(founding) = &told.founding {
                assert_eq!(
                    beginning.founding(),
                    Some(founding),
                    "the same founding is repeated"
                );
            }
            if beginning.founding().is_none() {
                let founding = founding(beginning.node());
                beginning.found(founding).unwrap();
            }
            beginning.begin().unwrap()
        }
    };
    if let Some(node) = told.node {
        assert_eq!(opened.identity.node, node, "the node id that others were told");
    }
    assert_eq!(opened.founding, Some(founding(opened.identity.node)));
    assert_eq!(opened.identity.cluster, ClusterId(77));
    if let Some(boot) = told.boot {
        assert!(opened.starts.has_seen(boot), "the start that others were told");
        assert!(opened.starts.present().number > boot.number);
    }
    opened
}

#[test]
fn whatever_was_told_is_there_after_a_crash() {
    let steps = {
        let remains = Remains::default();
        live(&remains, &mut Told::default()).unwrap();
        remains.disk.operations()
    };
    assert!(steps > 20, "{steps}");
    let (mut untold, mut began) = (0, 0);
    for step in 0..=steps {
        for cut in 0..CUTS {
            let mut rng = Rng::new(step * CUTS + cut + 1);
            let (remains, mut told) = (Remains::default(), Told::default());
            remains.disk.crash_at(step);
            let _ = live(&remains, &mut told);
            let remains = remains.after_crash(&mut rng);
            drop(come_back(&remains, &told));
            // And once more, as a node.
            let remains = remains.after_crash(&mut rng);
            assert!(matches!(remains.open().unwrap(), Found::Node(_)));
            untold += u64::from(told.node.is_none());
            began += u64::from(told.began);
        }
    }
    assert!(
        untold > 0 && began > 0,
        "from the first step to the last: {untold}, {began}"
    );
}

/// Hears of starts 2 to 7 of a node until the power fails at this step; gives the last that was answered, and the one
/// that is remembered afterwards.
fn hear_until(step: u64, faults: Faults, rng: &mut Rng) -> (u64, u64) {
    let durable = |number| Durable {
        boot: Boot {
            number,
            start: number,
        },
        vote: None,
        committed: None,
    };
    let (disk, dir) = (SimDisk::new(), Path::new(DIR));
    disk.create_dir(dir).unwrap();
    let recall = Recall::open(Arc::new(disk.clone()), dir).unwrap();
    recall.hear(1, durable(1), None).unwrap();
    disk.set_faults(faults);
    disk.crash_at(step);
    let hear = |number| recall.hear(1, durable(number), Some(durable(number - 1).boot));
    let heard = (2..8).take_while(|number| hear(*number).is_ok());
    let answered = heard.last().unwrap_or(1);
    let recall = Recall::open(Arc::new(disk.after_crash(rng)), dir);
    let known = recall.ok().and_then(|recall| recall.of(1));
    (answered, known.map_or(0, |known| known.boot.number))
}

#[test]
fn what_is_heard_is_remembered_once_it_is_answered() {
    let mut lied_to = 0;
    for step in 0..30 {
        for cut in 0..CUTS {
            let seed = step * CUTS + cut + 1;
            let (answered, known) = hear_until(step, Faults::default(), &mut Rng::new(seed));
            assert!(known >= answered, "{known} is known, {answered} was answered");
            let lies = Faults {
                skip_sync: true,
                ..Faults::default()
            };
            let (answered, known) = hear_until(step, lies, &mut Rng::new(seed));
            lied_to += u64::from(known < answered);
        }
    }
    assert!(
        lied_to > 0,
        "a disk that only pretends to flush is found out here"
    );
}
