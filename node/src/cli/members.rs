//! `spine members` and `spine leave`.

use clap::{Args, Subcommand};
use spine_client::{Error, proto as v1};

use super::{Connection, Printing, Streams, exit::Failure, print, rows::MemberRow};

/// List the servers of the cluster, remove one, or have another one lead.
#[derive(Args, Debug)]
pub struct Members {
    #[command(subcommand)]
    command: Option<MembersCommand>,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    printing: Printing,
}

#[derive(Debug, Subcommand)]
enum MembersCommand {
    /// Remove a server for good; a server that runs ends. It is refused if too few of the others answer
    Remove {
        /// The server's name
        name: String,
        /// Even if too few of the others answer: nothing can be written then before enough of them are back
        #[arg(long)]
        force: bool,
    },
    /// Have another server lead; asked of the leader
    Transfer {
        /// The server that is to lead; without one, whose log has come furthest
        name: Option<String>,
    },
}

impl Members {
    pub(super) async fn run(self, streams: &mut Streams<'_>) -> Result<(), Failure> {
        let client = self.connection.client()?;
        match self.command {
            None => {
                let v1::ListMembersResponse { members, rules, .. } = client.members.overview().await?;
                let rows: Vec<_> = members
                    .into_iter()
                    .map(|member| MemberRow::within(member, rules))
                    .collect();
                Ok(print::rows(streams, self.printing.output, &rows)?)
            }
            Some(MembersCommand::Remove { name, force }) => {
                client.members.remove(&name, force).await.map_err(failure)?;
                Ok(writeln!(streams.out, "{name} is a member no longer")?)
            }
            Some(MembersCommand::Transfer { name }) => {
                let leader = client.members.transfer_leadership(name.as_deref()).await;
                let leader = leader.map_err(failure)?;
                Ok(writeln!(streams.out, "{leader} leads")?)
            }
        }
    }
}

/// Have a server leave the cluster for good, and end. It is refused if too few of the others answer.
#[derive(Args, Debug)]
pub struct Leave {
    #[command(flatten)]
    connection: Connection,
}

impl Leave {
    pub(super) async fn run(self, streams: &mut Streams<'_>) -> Result<(), Failure> {
        let name = self.connection.client()?.members.leave().await.map_err(failure)?;
        Ok(writeln!(streams.out, "{name} has left the cluster, and ends")?)
    }
}

fn failure(error: Error) -> Failure {
    match error {
        Error::Refused(refusal) if refusal.not_found => Failure::NotFound(refusal.message),
        error => error.into(),
    }
}
