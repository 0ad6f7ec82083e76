//! When each topic was last touched: the index of a question is the newest of its topics'.

use crate::{
    event::Topic,
    id::Index,
    table::{Graves, Table},
    tree::Stamped,
};

impl Stamped for Index {
    fn index(&self) -> Index {
        *self
    }
}

/// The last index of each topic but those of keys, which their own rows tell. A topic whose service or node is gone
/// is kept as long as the bound on tombstones allows; then the floor stands in for it.
#[derive(Clone, Debug, Default)]
pub struct Touched {
    pub(crate) live: Table<Topic, Index>,
    pub(crate) gone: Graves<Topic>,
}

impl Touched {
    /// `topic` was touched at `index`.
    pub fn touch(&mut self, topic: Topic, index: Index) {
        self.gone.raise(&topic);
        self.live.put(topic, index);
    }

    /// What `topic` is about is gone.
    pub fn bury(&mut self, topic: &Topic) {
        if let Some(index) = self.live.remove(topic) {
            self.gone.bury(topic.clone(), index);
        }
    }

    /// The last index at which `topic` was touched.
    pub fn newest(&self, topic: &Topic) -> Index {
        let live = self.live.get(topic).copied();
        live.or_else(|| self.gone.by_key.get(topic).copied())
            .unwrap_or(self.gone.floor)
    }
}
