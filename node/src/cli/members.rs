//! `spine members`.

use clap::Args;

use super::{Connection, Printing, Streams, exit::Failure, print, rows::MemberRow};

/// List the servers of the cluster.
#[derive(Args, Debug)]
pub struct Members {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    printing: Printing,
}

impl Members {
    pub(super) async fn run(self, streams: &mut Streams<'_>) -> Result<(), Failure> {
        let members = self.connection.client()?.members.list().await?;
        let rows: Vec<_> = members.into_iter().map(MemberRow::from).collect();
        Ok(print::rows(streams, self.printing.output, &rows)?)
    }
}
