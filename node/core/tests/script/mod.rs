//! The language of the golden scripts.

mod catalog_txn;
mod parse;
mod show;
mod txn;

use std::{
    error::Error,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use goldenscript::{ArgumentConsumer, Context, Runner};
use spine_core::{
    AllChecks, AllEndpoints, AllLeases, Author, CaRoots, Command, CountKeys, Entry, FindInstance, GetKey,
    Index, InstanceHealth, KeyNames, LeaseId, ListKeys, ListKeysAt, Members, NodeChecks, NodeServices, Nodes,
    OneCheck, OneLease, Query, ReadCatalogTxn, ReadTxn, RenewalRequest, Request, Revision, Rights,
    ServiceChecks, ServiceHealth, Services, State, Status, Time, WallTime, codec,
    snapshot::{self, Header, Restore},
};

use self::parse::{Parsed, check_key, command, instance, interest, node, pos, range, request, service, ttl};

/// What a command puts out.
pub(crate) type Answered = Result<String, Box<dyn Error>>;

/// A state and its time.
#[derive(Default)]
pub(crate) struct Script {
    state: State,
    now: Time,
    /// Renewals on their way.
    held: Vec<RenewalRequest>,
}

impl Runner for Script {
    type Command = goldenscript::Command;

    fn run(&mut self, command: &goldenscript::Command, _context: &Context) -> Answered {
        let mut args = command.consume_args();
        let output = self.step(&command.name, &mut args)?;
        args.reject_next()?;
        Ok(output)
    }
}

impl Script {
    fn step(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Answered {
        match name {
            "time" => {
                self.now = self.now.after(ttl(pos(args)?)?);
                Ok(format!("{}", self.now.0))
            }
            "due" => Ok(self
                .state
                .next_deadline()
                .map_or("never".into(), |time| time.0.to_string())),
            "snapshot" => self.snapshot(),
            "header" => Ok(hex(&Header::of(&self.state).encode())),
            "rows" => Ok(self.rows()),
            "stored" => Ok(format!("{} bytes", self.state.bytes())),
            "oldest" => Ok(self.state.changes().oldest().to_string()),
            "entry" => self.entry(args),
            "repeat" => self.repeat(args),
            "bytes" => bytes(args),
            "decode" => decode(args),
            "renewal" => {
                let held = self.hold(args)?;
                Ok(held.map_or("not a renewal".into(), |held| self.renew(vec![held])))
            }
            "hold" => {
                let held = self.hold(args)?;
                let said = if held.is_some() { "held" } else { "not a renewal" };
                self.held.extend(held);
                Ok(said.into())
            }
            "renew_held" => {
                let held = std::mem::take(&mut self.held);
                Ok(self.renew(held))
            }
            name => {
                if let Some(answer) = self.ask(name, args)? {
                    return Ok(answer);
                }
                let request = request(name, args)?;
                Ok(self.apply(vec![request]))
            }
        }
    }

    fn apply(&mut self, requests: Vec<Request>) -> String {
        let entry = Entry {
            time: self.now,
            wall: WallTime(self.now.0),
            requests,
        };
        // What is applied is what was read back.
        let entry = codec::decode_entry(&codec::encode_entry(&entry)).expect("an entry comes back");
        let batch = self.state.apply(&entry);
        let mut lines: Vec<_> = batch.applied.iter().map(show::applied).collect();
        lines.extend(batch.events.iter().map(show::event));
        lines.join("\n")
    }

    /// Several commands in one entry, each in quotes.
    fn entry(&mut self, args: &mut ArgumentConsumer<'_>) -> Answered {
        let mut requests = Vec::new();
        while let Some(line) = args.next_pos() {
            requests.append(&mut requests_of(line)?);
        }
        Ok(self.apply(requests))
    }

    /// A command many times in one entry; `{}` in it is the number of the time. Only the last outcome is shown.
    fn repeat(&mut self, args: &mut ArgumentConsumer<'_>) -> Answered {
        let count: usize = pos(args)?.parse()?;
        let line = pos(args)?;
        let mut requests = Vec::new();
        for number in 1..=count {
            requests.append(&mut requests_of(&line.replace("{}", &number.to_string()))?);
        }
        let output = self.apply(requests);
        let outcomes = output.lines().take(count);
        Ok(outcomes.last().unwrap_or_default().to_owned())
    }

    /// The renewal that a command would travel as.
    fn hold(&self, args: &mut ArgumentConsumer<'_>) -> Result<Option<RenewalRequest>, Box<dyn Error>> {
        let name = pos(args)?;
        let renewal = self.state.as_renewal(&command(name, args)?);
        Ok(renewal.map(|renewal| RenewalRequest {
            author: Author::default(),
            rights: Rights::Open,
            renewal,
        }))
    }

    fn renew(&mut self, renewals: Vec<RenewalRequest>) -> String {
        self.apply(vec![Request::internal(Command::Renew(renewals))])
    }

    /// The rows of a snapshot, in hexadecimal.
    fn rows(&self) -> String {
        let bytes: Vec<_> = snapshot::chunks(&self.state).flatten().collect();
        let mut rest = &bytes[..];
        let mut lines = Vec::new();
        while let Some((length, body)) = rest.split_first_chunk() {
            let (row, after) = body.split_at(u32::from_le_bytes(*length) as usize);
            lines.push(hex(row));
            rest = after;
        }
        lines.join("\n")
    }

    fn snapshot(&mut self) -> Answered {
        let header = Header::decode(&Header::of(&self.state).encode())?;
        let mut restore = Restore::new(header)?;
        let mut count = 0;
        for chunk in snapshot::chunks(&self.state) {
            restore.push(&chunk)?;
            count += 1;
        }
        self.state = restore.finish()?;
        Ok(format!(
            "restored from {count} chunks, index {}, revision {}",
            self.state.index(),
            self.state.revision()
        ))
    }

    #[expect(clippy::too_many_lines, reason = "a table")]
    fn ask(&self, question: &str, args: &mut ArgumentConsumer<'_>) -> Result<Option<String>, Box<dyn Error>> {
        let state = &self.state;
        let limit = args.take_key("limit").map(str::parse).transpose()?;
        Ok(Some(match question {
            "get" => show::answer(&GetKey(pos(args)?.to_owned().into()).ask(state), show::row),
            "list" => show::answer(
                &ListKeys {
                    range: range(args),
                    limit,
                }
                .ask(state),
                show::page,
            ),
            "at" => {
                let revision = Revision(pos(args)?.parse()?);
                let answer = ListKeysAt {
                    range: range(args),
                    revision,
                    limit,
                }
                .ask(state);
                show::answer(&answer, |page| {
                    page.as_ref().map_or_else(ToString::to_string, show::page)
                })
            }
            "count" => show::answer(&CountKeys(range(args)).ask(state), ToString::to_string),
            "names" => {
                let prefix = args.next_pos().unwrap_or_default().to_owned().into();
                let separator = args
                    .take_key("separator")
                    .map(|separator| separator.to_owned().into());
                show::answer(&KeyNames { prefix, separator }.ask(state), |names| {
                    show::keys(names)
                })
            }
            "nodes" => show::answer(&Nodes.ask(state), |nodes| {
                show::lines(nodes, |node| show::node(node))
            }),
            "node" => show::answer(
                &NodeServices {
                    node: pos(args)?.into(),
                }
                .ask(state),
                show::node_services,
            ),
            "services" => show::answer(&Services.ask(state), show::services),
            "service" => show::answer(&ServiceHealth(service(args)?).ask(state), |all| {
                show::lines(all, show::endpoint)
            }),
            "endpoints" => show::answer(&AllEndpoints.ask(state), |all| show::lines(all, show::endpoint)),
            "instance" => {
                let answer = InstanceHealth(instance(args)?).ask(state);
                show::answer(&answer, |found| {
                    found.as_ref().map_or("none".into(), show::endpoint)
                })
            }
            "find" => show::answer(&FindInstance(instance(args)?).ask(state), |found| {
                format!("{found:?}")
            }),
            "node-checks" => show::answer(&NodeChecks(node(args)?).ask(state), |all| {
                show::lines(all, show::check_view)
            }),
            "service-checks" => show::answer(&ServiceChecks(service(args)?).ask(state), |all| {
                show::lines(all, show::check_view)
            }),
            "checks" => {
                let status = args
                    .next_pos()
                    .map(|word| Status::parse(word).ok_or("no such status"))
                    .transpose()?;
                show::answer(&AllChecks { status }.ask(state), |all| {
                    show::lines(all, show::check_view)
                })
            }
            "check" => {
                let answer = OneCheck(check_key(args)?).ask(state);
                show::answer(&answer, |found| {
                    found.as_ref().map_or("none".into(), show::check_view)
                })
            }
            "members" => show::answer(&Members.ask(state), |all| show::lines(all, show::member)),
            "roots" => show::answer(&CaRoots.ask(state), |all| {
                show::lines(all, |root| {
                    format!("{} active={} index={}", root.root.id, root.active, root.index)
                })
            }),
            "log" => {
                let from = Index(args.take_key("from").unwrap_or("1").parse()?);
                let max = limit.unwrap_or(usize::MAX);
                let interest = interest(args);
                let (events, through) = state.changes().since(from, &interest, max);
                let through = through.map_or("all".into(), |index| index.to_string());
                format!("through {through}\n{}", show::lines(&events, show::event))
            }
            "lease" => {
                let id = LeaseId(pos(args)?.parse()?);
                let keys: Vec<_> = state.kv().of_lease(id).cloned().collect();
                let locks: Vec<_> = state.kv().locked_by(id).cloned().collect();
                let locks = if locks.is_empty() {
                    String::new()
                } else {
                    format!(" locks {}", show::keys(&locks))
                };
                format!(
                    "until {:?} keys {}{locks}",
                    state.lease_deadline(id).map(|time| time.0),
                    show::keys(&keys)
                )
            }
            "terms" => {
                let answer = OneLease(LeaseId(pos(args)?.parse()?)).ask(state);
                show::answer(&answer, |found| found.as_ref().map_or("none".into(), show::lease))
            }
            "leases" => {
                let query = AllLeases {
                    node: args
                        .take_key("node")
                        .map(spine_core::NodeName::parse)
                        .transpose()?,
                    after: args.take_key("after").map(str::parse).transpose()?.map(LeaseId),
                    limit,
                };
                show::answer(&query.ask(state), |all| show::lines(all, show::lease))
            }
            "read_catalog" => {
                let answer = ReadCatalogTxn(catalog_txn::txn(args)?).ask(state);
                show::answer(&answer, |outcome| {
                    outcome.as_ref().map_or_else(ToString::to_string, show::outcome)
                })
            }
            "read" => show::answer(&ReadTxn(txn::txn(args)?).ask(state), |outcome| {
                outcome.as_ref().map_or_else(ToString::to_string, show::outcome)
            }),
            _ => return Ok(None),
        }))
    }
}

/// The bytes of an entry with one command, in hexadecimal.
fn bytes(args: &mut ArgumentConsumer<'_>) -> Answered {
    let requests = vec![request(pos(args)?, args)?];
    let entry = Entry {
        time: Time(1),
        wall: WallTime(2),
        requests,
    };
    let bytes = codec::encode_entry(&entry);
    assert_eq!(codec::decode_entry(&bytes)?, entry, "an entry comes back");
    Ok(hex(&bytes))
}

/// What becomes of an entry's bytes, given in hexadecimal.
fn decode(args: &mut ArgumentConsumer<'_>) -> Answered {
    let text = pos(args)?;
    let digits: Vec<_> = text
        .chars()
        .map(|digit| digit.to_digit(16))
        .collect::<Option<_>>()
        .ok_or("hexadecimal")?;
    let bytes: Vec<_> = digits
        .chunks(2)
        .map(|pair| u8::try_from(pair.iter().fold(0, |sum, digit| sum * 16 + digit)))
        .collect::<Result<_, _>>()?;
    Ok(match codec::decode_entry(&bytes) {
        Ok(entry) => format!("{} requests at {}", entry.requests.len(), entry.time.0),
        Err(error) => error.to_string(),
    })
}

/// The requests that a line of a script means.
fn requests_of(line: &str) -> Result<Vec<Request>, Box<dyn Error>> {
    let mut parsed = Parsed::default();
    goldenscript::generate(&mut parsed, &format!("{line}\n---\n"))?;
    Ok(parsed.requests)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a string takes all");
        hex
    })
}

/// Runs every script below a directory, each from an empty state.
pub(crate) fn run_all(directory: &Path) {
    let found = files(directory);
    assert!(!found.is_empty(), "no scripts in {}", directory.display());
    for path in found {
        goldenscript::run(&mut Script::default(), &path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// Every file below a directory, in order.
pub(crate) fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory of scripts") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.append(&mut files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}
