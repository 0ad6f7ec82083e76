//! The whole state as a stream.

use spine_core::{State, snapshot};
use spine_proto::v1::{self, save_snapshot_response::Part};
use tonic::Streaming;

use crate::served::Served;

/// The parts between start and end, put together; and the end.
async fn rest(parts: &mut Streaming<v1::SaveSnapshotResponse>) -> (Vec<Vec<u8>>, v1::SnapshotEnd) {
    let mut chunks = Vec::new();
    loop {
        match parts.message().await.unwrap().unwrap().part.unwrap() {
            Part::Chunk(chunk) => {
                assert_eq!(crc32c::crc32c(&chunk.data), chunk.crc32c);
                assert!(chunk.data.len() <= snapshot::CHUNK_BYTES);
                chunks.push(chunk.data.to_vec());
            }
            Part::End(end) => return (chunks, end),
            Part::Start(_) => panic!("it begins twice"),
        }
    }
}

fn built(start: &v1::SnapshotStart, chunks: &[Vec<u8>]) -> State {
    let header = snapshot::Header::decode(&start.state).unwrap();
    let mut restore = snapshot::Restore::new(header).unwrap();
    for chunk in chunks {
        restore.push(chunk).unwrap();
    }
    restore.finish().unwrap()
}

#[tokio::test]
async fn a_snapshot_is_the_state_of_one_moment() {
    let served = Served::start().await;
    for number in 0..3 {
        served.registry.put_here("a", format!("{number}")).await;
        served.registry.put_here("b", "x".repeat(100_000)).await;
    }
    let before = spine_api::Registry::hub(&*served.registry).newest();
    let request = v1::SaveSnapshotRequest::default();
    let mut parts = served.admin().save_snapshot(request).await.unwrap().into_inner();
    // What comes after the beginning is not in it.
    served.registry.put_here("a", "later".to_owned()).await;
    let Some(Part::Start(start)) = parts.message().await.unwrap().unwrap().part else {
        panic!("it begins with its start");
    };
    assert_eq!(start.server, "n1");
    assert_eq!(start.cluster_id, "11111111-2222-3333-4444-555555555555");
    assert_eq!(
        (start.index, start.revision),
        (before.index().0, before.revision().0)
    );
    assert_eq!(start.state_bytes, before.bytes());
    let (chunks, end) = rest(&mut parts).await;
    let bytes: usize = chunks.iter().map(Vec::len).sum();
    assert_eq!((end.chunks, end.bytes), (chunks.len() as u64, bytes as u64));
    assert!(chunks.len() > 1);
    assert_eq!(built(&start, &chunks).digest(), before.digest());
    assert!(
        parts.message().await.unwrap().is_none(),
        "nothing is behind the end"
    );
}

#[tokio::test]
async fn a_registry_without_a_server_around_it_has_no_machine_to_tell_of() {
    let served = Served::start().await;
    let refused = served.admin().diagnose(v1::DiagnoseRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unimplemented);
    let refused = served.admin().debug(v1::DebugRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unimplemented);
}
