//! What clients ask, on its way to the log: who waits for it, how far it has come, and where it waits.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use spine_api::Error;
use spine_core::{Applied, Index, RenewalRequest, Renewed, Request};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::Instant,
};

use crate::forward::session::Number;

/// A command on its way.
pub(super) type CommandAsk = Ask<Box<Request>, Applied>;
/// A renewal on its way.
pub(super) type RenewalAsk = Ask<RenewalRequest, (Index, Renewed)>;

/// One of them.
pub(super) enum Asked {
    Command(CommandAsk),
    Renewal(RenewalAsk),
}

impl From<CommandAsk> for Asked {
    fn from(ask: CommandAsk) -> Self {
        Self::Command(ask)
    }
}

impl From<RenewalAsk> for Asked {
    fn from(ask: RenewalAsk) -> Self {
        Self::Renewal(ask)
    }
}

/// How far a request has come: what its outcome is called if no answer comes in time.
#[derive(Debug, Default)]
pub(super) struct Stage(AtomicU8);

impl Stage {
    const WAITING: u8 = 0;
    const PROPOSED: u8 = 1;
    const WITHDRAWN: u8 = 2;

    /// From here on the request may take effect; `false` if it was withdrawn.
    fn propose(&self) -> bool {
        self.step(Self::WAITING, Self::PROPOSED)
    }

    /// It is certain that it was not proposed after all.
    fn not_proposed(&self) {
        self.step(Self::PROPOSED, Self::WAITING);
    }

    /// The client has given up; `false` if the request may have been proposed already.
    pub(super) fn withdraw(&self) -> bool {
        self.step(Self::WAITING, Self::WITHDRAWN)
    }

    fn step(&self, from: u8, to: u8) -> bool {
        self.0
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

/// A request and its client.
pub(super) struct Ask<Q, A> {
    /// What is asked.
    pub(super) content: Q,
    /// Who asks.
    pub(super) client: Client<A>,
}

/// Who waits for the answer to a request, and how far it has come. Dropped without an answer, the waiting end looks at the
/// [`Stage`].
pub(super) struct Client<A> {
    /// Bytes of the request, encoded.
    pub(super) bytes: u64,
    /// When nobody waits any more.
    pub(super) deadline: Instant,
    /// It came from another server, which itself looks for the one that leads: it goes no further from here.
    pub(super) forwarded: bool,
    /// Its number in this node's request session, once it was given one.
    pub(super) number: Option<Number>,
    /// An earlier sending of it may still take effect.
    doubtful: bool,
    stage: Arc<Stage>,
    to: oneshot::Sender<Result<A, Error>>,
    /// Its share of what may be on its way.
    _share: OwnedSemaphorePermit,
}

/// The client's end of a request.
pub(super) struct Waiting<A> {
    pub(super) answer: oneshot::Receiver<Result<A, Error>>,
    pub(super) stage: Arc<Stage>,
}

impl<Q, A> Ask<Q, A> {
    /// A request, and its client's end.
    pub(super) fn new(
        content: Q,
        bytes: u64,
        deadline: Instant,
        forwarded: bool,
        share: OwnedSemaphorePermit,
    ) -> (Self, Waiting<A>) {
        let (to, answer) = oneshot::channel();
        let stage = Arc::new(Stage::default());
        let waiting = Waiting {
            answer,
            stage: stage.clone(),
        };
        let client = Client {
            bytes,
            deadline,
            forwarded,
            number: None,
            doubtful: false,
            stage,
            to,
            _share: share,
        };
        (Self { content, client }, waiting)
    }
}

impl<A> Client<A> {
    /// Whether somebody still waits.
    pub(super) fn is_there(&self, now: Instant) -> bool {
        now < self.deadline && !self.to.is_closed()
    }

    /// From here on the request may take effect; `false` if its client has given up.
    pub(super) fn propose(&self) -> bool {
        self.doubtful || self.stage.propose()
    }

    /// The last sending certainly took no effect.
    pub(super) fn not_proposed(&self) {
        if !self.doubtful {
            self.stage.not_proposed();
        }
    }

    /// The last sending may or may not take effect.
    pub(super) fn doubt(&mut self) {
        self.doubtful = true;
    }

    /// Whether an earlier sending may take effect, so that no refusal is the truth about it.
    pub(super) fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    /// Tells the client, who may have given up.
    pub(super) fn answer(self, answer: Result<A, Error>) {
        let _ = self.to.send(answer);
    }

    /// Tells the client that the last sending was refused before it was proposed.
    pub(super) fn refuse(self, error: Error) {
        let error = if self.doubtful { lost() } else { error };
        self.answer(Err(error));
    }
}

/// A request that was sent and whose fate is not known.
pub(super) fn lost() -> Error {
    Error::Unknown("leadership changed before the write was committed".into())
}

/// What waits to be proposed or forwarded. Every request holds a share, so it is bounded by the shares.
pub(super) struct Queue {
    /// In the order in which they came.
    pub(super) commands: VecDeque<CommandAsk>,
    /// The same.
    pub(super) renewals: VecDeque<RenewalAsk>,
    incoming: mpsc::Receiver<Asked>,
    back: mpsc::UnboundedReceiver<Asked>,
    /// Where requests go that were not proposed after all.
    pub(super) give_back: mpsc::UnboundedSender<Asked>,
    closed: bool,
}

impl Queue {
    /// A queue of what comes in there.
    pub(super) fn new(incoming: mpsc::Receiver<Asked>) -> Self {
        let (give_back, back) = mpsc::unbounded_channel();
        Self {
            commands: VecDeque::new(),
            renewals: VecDeque::new(),
            incoming,
            back,
            give_back,
            closed: false,
        }
    }

    /// Waits until something comes in, or nothing can any more. Nothing is lost when it is not waited for to the end.
    pub(super) async fn more(&mut self) {
        let asked = tokio::select! {
            biased;
            Some(asked) = self.back.recv() => Some(asked),
            asked = self.incoming.recv(), if !self.closed => asked,
        };
        match asked {
            Some(asked) => self.push(asked),
            None => self.closed = true,
        }
    }

    /// Takes in all that has come, without waiting.
    pub(super) fn take_in(&mut self) {
        while let Ok(asked) = self.back.try_recv() {
            self.push(asked);
        }
        while let Ok(asked) = self.incoming.try_recv() {
            self.push(asked);
        }
    }

    /// Lets go of those for which nobody waits.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.commands.retain(|ask| ask.client.is_there(now));
        self.renewals.retain(|ask| ask.client.is_there(now));
    }

    /// Sends those back that came from other servers.
    pub(super) fn return_forwarded(&mut self) {
        return_forwarded(&mut self.commands);
        return_forwarded(&mut self.renewals);
    }

    /// Whether nothing waits, nothing will come, and nothing is on its way that might come back: entries of a leadership
    /// that was handed over are answered under the next one.
    pub(super) fn is_done(&self) -> bool {
        let on_their_way = self.back.sender_strong_count() > 1;
        self.closed
            && self.commands.is_empty()
            && self.renewals.is_empty()
            && self.back.is_empty()
            && !on_their_way
    }

    fn push(&mut self, asked: Asked) {
        match asked {
            Asked::Command(ask) => self.commands.push_back(ask),
            Asked::Renewal(ask) => self.renewals.push_back(ask),
        }
    }
}

fn return_forwarded<Q, A>(asks: &mut VecDeque<Ask<Q, A>>) {
    for _ in 0..asks.len() {
        let Some(ask) = asks.pop_front() else { return };
        if ask.client.forwarded {
            ask.client.refuse(Error::NoLeader);
        } else {
            asks.push_back(ask);
        }
    }
}

/// Takes those for one message or entry: at most `count_max`, and `bytes_max` together unless a single one is longer. From
/// here on they may take effect.
pub(super) fn draft<Q, A>(
    waiting: &mut VecDeque<Ask<Q, A>>,
    count_max: usize,
    bytes_max: u64,
    now: Instant,
) -> Vec<Ask<Q, A>> {
    let mut drafted = Vec::new();
    let mut bytes = 0;
    while drafted.len() < count_max {
        let fits = |next: &mut Ask<Q, A>| bytes == 0 || bytes + next.client.bytes <= bytes_max;
        let Some(ask) = waiting.pop_front_if(fits) else {
            break;
        };
        if ask.client.is_there(now) && ask.client.propose() {
            bytes += ask.client.bytes;
            drafted.push(ask);
        }
    }
    drafted
}

/// Puts them back before the others, in their order.
pub(super) fn put_back<Q, A>(waiting: &mut VecDeque<Ask<Q, A>>, asks: Vec<Ask<Q, A>>) {
    for ask in asks.into_iter().rev() {
        waiting.push_front(ask);
    }
}
