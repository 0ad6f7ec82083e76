//! What a key is meant to do: written from the promises, not from the code that keeps them.

use super::linearizable::Model;

/// One key. Values are told apart by number; 0 is a key that is not there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Register;

/// A value's number.
pub type Value = u32;

/// What is done to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// Read it.
    Read,
    /// Store a value.
    Write(Value),
    /// Store the second value if it is still the first: as no value is stored twice, whether the value or its version is
    /// compared comes to the same.
    Cas(Value, Value),
    /// Delete it.
    Delete,
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// What was read.
    Value(Value),
    /// Written or deleted.
    Done,
    /// Whether the compare-and-set was done, or whether the deletion found something.
    Was(bool),
}

impl Model for Register {
    type State = Value;
    type Input = Input;
    type Output = Output;

    fn initial(&self) -> Value {
        0
    }

    fn step(&self, state: &Value, input: &Input, output: Option<&Output>) -> Option<Value> {
        let (answer, after) = match *input {
            Input::Read => (Output::Value(*state), *state),
            Input::Write(value) => (Output::Done, value),
            Input::Cas(expected, value) if *state == expected => (Output::Was(true), value),
            Input::Cas(..) => (Output::Was(false), *state),
            Input::Delete => (Output::Was(*state != 0), 0),
        };
        // Some dialects don't say whether a deletion found something.
        let is_untold = *input == Input::Delete && output == Some(&Output::Done);
        (is_untold || output.is_none_or(|output| *output == answer)).then_some(after)
    }
}
