use super::*;

const LIST: &str = "a=h:1,b=h:2,c=h:3";

fn list(text: &str) -> Founders {
    let peers = text.split(',').map(|entry| {
        let (name, address) = entry.split_once('=').unwrap();
        Peer {
            name: name.to_owned(),
            address: address.to_owned(),
        }
    });
    Founders::of(peers).unwrap()
}

/// The empty server `name`, whose directory has the node id `node`.
fn founder(name: &str, node: u64) -> Founder {
    Founder {
        name: name.to_owned(),
        node,
        founders: list(LIST),
        founding: None,
    }
}

/// A founding by these node ids of a, b and c.
fn founding(cluster: u128, nodes: [u64; 3]) -> Founding {
    Founding {
        cluster: ClusterId(cluster),
        members: nodes.into_iter().zip(list(LIST).peers()).collect(),
    }
}

fn says(me: &Founder) -> Introduction {
    Introduction {
        name: me.name.clone(),
        node: me.node,
        address: String::new(),
        founders: me.founders.clone(),
        founding: me.founding.clone(),
        roster: None,
        lineage: Lineage::default(),
    }
}

fn round(me: &Founder, others: &[Founder]) -> Step {
    let answers = others.iter().map(|other| (other.name.clone(), Ok(says(other))));
    step(me, &answers.collect())
}

fn refusal(step: Step) -> Refusal {
    match step {
        Step::Refuse(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_first_by_name_decides_once_all_are_there_and_the_others_wait_for_it() {
    let [a, b, c] = [founder("a", 11), founder("b", 12), founder("c", 13)];
    let members = founding(1, [11, 12, 13]).members;
    assert_eq!(round(&a, &[b.clone(), c.clone()]), Step::Decide(members));
    let first = Peer {
        name: "a".to_owned(),
        address: "h:1".to_owned(),
    };
    assert_eq!(round(&b, &[a.clone(), c.clone()]), Step::Await(first.clone()));
    assert_eq!(round(&c, &[a, b]), Step::Await(first));
}

#[test]
fn whoever_is_missing_is_waited_for_by_name() {
    let [a, b] = [founder("a", 11), founder("b", 12)];
    let mut answers = BTreeMap::from([
        ("b".to_owned(), Ok(says(&b))),
        ("c".to_owned(), Err("connection refused".to_owned())),
    ]);
    let Step::Wait(missing) = step(&a, &answers) else {
        panic!("c is missing")
    };
    assert_eq!(name_missing(&missing), "c at h:3 (connection refused)");
    // Somebody else at the address is nobody.
    answers.insert("c".to_owned(), Ok(says(&b)));
    let Step::Wait(missing) = step(&a, &answers) else {
        panic!("c is missing")
    };
    assert_eq!(name_missing(&missing), "c at h:3 (the server there is b)");
    assert!(matches!(step(&a, &BTreeMap::new()), Step::Wait(missing) if missing.len() == 2));
}

#[test]
fn a_server_alone_in_its_list_needs_nobody() {
    let alone = Founder {
        founders: list("a=h:1"),
        ..founder("a", 11)
    };
    let Step::Decide(members) = round(&alone, &[]) else {
        panic!("nobody is missing")
    };
    assert_eq!(members.into_keys().collect::<Vec<_>>(), [11]);
}

#[test]
fn a_founder_takes_the_identity_that_its_directory_was_given() {
    let founding = founding(1, [11, 12, 13]);
    let a = Founder {
        founding: Some(founding.clone()),
        ..founder("a", 11)
    };
    // One member is enough, whoever else is there.
    assert_eq!(
        round(&founder("b", 12), std::slice::from_ref(&a)),
        Step::Take(founding.clone())
    );
    assert_eq!(
        round(&founder("c", 13), &[a, founder("b", 12)]),
        Step::Take(founding)
    );
}

#[test]
fn a_crash_between_repeats_the_same_founding() {
    let founding = founding(1, [11, 12, 13]);
    // The one who decided, and the one who had taken: neither needs anybody to go on.
    for (name, node) in [("a", 11), ("b", 12)] {
        let me = Founder {
            founding: Some(founding.clone()),
            ..founder(name, node)
        };
        assert_eq!(step(&me, &BTreeMap::new()), Step::Take(founding.clone()));
    }
    assert!(founding.is_begun_by(11) && !founding.is_begun_by(12) && !founding.is_begun_by(99));
    assert_eq!(founding.identity(12).unwrap().node, 12);
    assert_eq!(founding.identity(99), None);
}

#[test]
fn a_wiped_founder_is_refused_even_the_one_who_decided() {
    let founding = founding(1, [11, 12, 13]);
    let b = Founder {
        founding: Some(founding.clone()),
        ..founder("b", 12)
    };
    for (name, founded) in [("a", 11), ("c", 13)] {
        let refused = refusal(round(&founder(name, 99), std::slice::from_ref(&b)));
        assert_eq!(
            refused,
            Refusal::Wiped {
                name: name.to_owned(),
                cluster: ClusterId(1),
                founded,
                own: 99
            }
        );
        assert!(refused.to_string().contains("spine join"), "{refused}");
    }
}

#[test]
fn all_wiped_but_one_never_found_a_second_cluster() {
    // b alone still knows; a and c come back empty and reach each other before they reach b.
    let c = founder("c", 98);
    let a = founder("a", 99);
    assert!(matches!(round(&a, std::slice::from_ref(&c)), Step::Wait(_)));
    let b = Founder {
        founding: Some(founding(1, [11, 12, 13])),
        ..founder("b", 12)
    };
    assert!(matches!(refusal(round(&a, &[b, c])), Refusal::Wiped { .. }));
}

#[test]
fn lists_that_differ_are_refused_with_both() {
    let other = Founder {
        founders: list("a=h:1,b=h:2,c=h:4"),
        ..founder("c", 13)
    };
    let refused = refusal(round(&founder("a", 11), std::slice::from_ref(&other))).to_string();
    assert!(refused.contains(LIST) && refused.contains("c=h:4"), "{refused}");
    // A fourth with a list of its own hears the same.
    let fourth = Founder {
        founders: list("a=h:1,b=h:2,c=h:3,d=h:4"),
        ..founder("d", 14)
    };
    let refused = refusal(round(&fourth, &[founder("a", 11)]));
    assert!(matches!(refused, Refusal::ListsDiffer { .. }));
    // And once the three have founded, that it is not among them.
    let a = Founder {
        founding: Some(founding(1, [11, 12, 13])),
        ..founder("a", 11)
    };
    let refused = refusal(round(&fourth, &[a])).to_string();
    assert!(
        refused.contains(LIST) && refused.contains("without this server"),
        "{refused}"
    );
}

#[test]
fn what_was_agreed_on_stays_agreed_on() {
    let me = Founder {
        founders: list("a=h:1,b=h:2"),
        founding: Some(founding(1, [11, 12, 13])),
        ..founder("a", 11)
    };
    assert!(matches!(
        refusal(round(&me, &[])),
        Refusal::AgreedOtherwise { .. }
    ));
}

#[test]
fn two_clusters_in_one_list_are_refused() {
    let [b, c] = [("b", 12, 1), ("c", 13, 2)].map(|(name, node, cluster)| Founder {
        founding: Some(founding(cluster, [11, 12, 13])),
        ..founder(name, node)
    });
    let refused = refusal(round(&founder("a", 11), &[b.clone(), c.clone()]));
    assert!(matches!(refused, Refusal::TwoClusters { .. }));
    assert!(matches!(refusal(round(&b, &[c])), Refusal::TwoClusters { .. }));
}

#[test]
fn copies_of_a_directory_are_refused() {
    let refused = refusal(round(&founder("a", 11), &[founder("b", 11)]));
    assert!(matches!(refused, Refusal::SameDirectory { node: 11, .. }));
    let a = Founder {
        founding: Some(founding(1, [11, 12, 13])),
        ..founder("a", 11)
    };
    let refused = refusal(round(&founder("b", 11), &[a]));
    assert!(matches!(refused, Refusal::Renamed { .. }));
}

#[test]
fn a_list_names_each_server_and_each_address_once() {
    let peers = |text: &str| {
        let peers = text.split(',').map(|entry| {
            let (name, address) = entry.split_once('=').unwrap();
            Peer {
                name: name.to_owned(),
                address: address.to_owned(),
            }
        });
        peers.collect::<Vec<_>>()
    };
    let founders = Founders::new("b", peers("c=h:3,a=h:1,b=h:2")).unwrap();
    assert_eq!(founders, list(LIST), "in any order");
    assert_eq!(founders.to_string(), LIST);
    assert!(
        matches!(Founders::new("a", peers("a=h:1,a=h:2")), Err(ListError::NameTwice(name)) if name == "a")
    );
    assert!(matches!(
        Founders::new("a", peers("a=h:1,a=h:1")),
        Err(ListError::NameTwice(_))
    ));
    assert!(matches!(
        Founders::new("a", peers("a=h:1,b=h:1")),
        Err(ListError::AddressTwice { .. })
    ));
    let error = Founders::new("x", peers(LIST)).unwrap_err().to_string();
    assert!(
        error.contains("\"a\", \"b\", \"c\"") && error.contains("\"x\""),
        "{error}"
    );
    let many: Vec<_> = (0..=FOUNDERS_MAX)
        .map(|n| Peer {
            name: format!("n{n}"),
            address: format!("h:{n}"),
        })
        .collect();
    assert_eq!(
        Founders::new("n0", many),
        Err(ListError::TooMany(FOUNDERS_MAX + 1))
    );
}

/// Three servers that start, answer, crash and are wiped in any order, by a seed: they take one identity each, of one
/// cluster, and only on the directory that it was made for.
#[test]
fn whatever_happens_there_is_one_cluster() {
    for seed in 0..2_000 {
        Play::new(seed).run();
    }
}

/// Servers with their disks, and everything that anybody ever took.
struct Play {
    chance: u64,
    disks: [Founder; 3],
    next_id: u64,
    next_cluster: u128,
    /// What was begun: cluster, node id and name.
    taken: BTreeSet<(u128, u64, String)>,
}

impl Play {
    fn new(seed: u64) -> Self {
        Self {
            chance: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            disks: [founder("a", 1), founder("b", 2), founder("c", 3)],
            next_id: 10,
            next_cluster: 1,
            taken: BTreeSet::new(),
        }
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance % below
    }

    fn run(mut self) {
        for _ in 0..40 {
            let who = usize::try_from(self.draw(3)).unwrap();
            match self.draw(10) {
                // A disk is lost, and the server starts anew on an empty one.
                0 => {
                    self.next_id += 1;
                    self.disks[who] = founder(&self.disks[who].name.clone(), self.next_id);
                }
                _ => self.round(who),
            }
            self.check();
        }
    }

    /// A round of one server. Some do not answer; an answer may be older than the disk is by now.
    fn round(&mut self, who: usize) {
        let me = self.disks[who].clone();
        let mut answers = BTreeMap::new();
        for other in 0..3 {
            if other != who && self.draw(4) != 0 {
                let other = &self.disks[other];
                answers.insert(other.name.clone(), Ok(says(other)));
            }
        }
        // While the answers were on their way, somebody lost its disk.
        if self.draw(12) == 0 {
            let lost = usize::try_from(self.draw(3)).unwrap();
            if lost != who {
                self.next_id += 1;
                self.disks[lost] = founder(&self.disks[lost].name.clone(), self.next_id);
            }
        }
        let founding = match step(&me, &answers) {
            Step::Wait(_) | Step::Await(_) | Step::Refuse(_) => return,
            Step::Decide(members) => {
                self.next_cluster += 1;
                Founding {
                    cluster: ClusterId(self.next_cluster),
                    members,
                }
            }
            Step::Take(founding) => founding,
        };
        // A crash before it is durable: nothing has happened.
        if self.draw(8) == 0 {
            return;
        }
        assert_eq!(founding.members[&me.node].name, me.name);
        self.taken.insert((founding.cluster.0, me.node, me.name.clone()));
        self.disks[who].founding = Some(founding);
    }

    /// At no moment do two disks know different clusters, and in a cluster each name has one directory.
    fn check(&self) {
        let known = self.disks.iter().filter_map(|disk| disk.founding.as_ref());
        let clusters: BTreeSet<_> = known.map(|founding| founding.cluster.0).collect();
        assert!(clusters.len() <= 1, "{clusters:?}");
        let mut directories = BTreeMap::new();
        for (cluster, node, name) in &self.taken {
            let directory = directories.entry((cluster, name)).or_insert(node);
            assert_eq!(directory, &node, "{name} of cluster {cluster}");
        }
    }
}
