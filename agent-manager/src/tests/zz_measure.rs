
use super::*;
fn rss() -> usize {
    let s = std::fs::read_to_string("/proc/self/statm").unwrap();
    s.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
#[tokio::test(flavor = "multi_thread")]
async fn measure() {
    let n = 100_000usize;
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let d2 = dir.clone();
    tokio::task::spawn_blocking(move || {
        let mut config = agent_core_journal::JournalConfig::new(d2.path().join("journal"));
        config.queue_bytes = 256 << 20;
        let (journal, _) = agent_core_journal::Journal::open(config, |_| Ok(())).unwrap();
        let mut last = None;
        for i in 0..n {
            let g = Guid::generate();
            let o = agent_api_model::OpId::generate();
            let r = Guid::generate();
            let a = format!(r#"{{"v":1,"t":"accepted","q":{},"at":{},"g":"{g}","r":"{r}","o":"{o}","w":"create","s":{{"kind":"fake","name":"sim-{i:06}"}},"n":1}}"#, i*2+1, Timestamp::now().as_micros());
            let b = format!(r#"{{"v":1,"t":"settled","q":{},"at":{},"g":"{g}","o":"{o}","p":"Running","h":{{"version":1,"data":{i}}},"b":1}}"#, i*2+2, Timestamp::now().as_micros());
            let _ = journal.append(a.as_bytes(), agent_core_journal::Class::Normal).unwrap();
            last = Some(journal.append(b.as_bytes(), agent_core_journal::Class::Normal).unwrap());
        }
        last.unwrap().wait(Duration::from_secs(60)).unwrap().unwrap();
        journal.seal(Duration::from_secs(10)).unwrap();
    }).await.unwrap();
    let before = rss();
    let t = std::time::Instant::now();
    let d3 = dir.clone();
    let manager = tokio::task::spawn_blocking(move || {
        let config = ManagerConfig::new(AgentId::new("test").unwrap(), d3.path());
        Manager::open(config, DriverSet::new([Fake::new("fake") as Arc<_>])).unwrap()
    }).await.unwrap();
    eprintln!("open {:?}", t.elapsed());
    let t = std::time::Instant::now();
    let mut part = manager.partition(ShardId(0));
    eprintln!("partition {:?}", t.elapsed());
    let after = rss();
    eprintln!("bytes per object {}", (after - before) / n);
    let t = std::time::Instant::now();
    let chunks = part.audit(&agent_api_model::DriverName::new("fake").unwrap(), 1000);
    eprintln!("audit {:?} {}", t.elapsed(), chunks.len());
    for limit in [1000, 10_000] {
        let t = std::time::Instant::now();
        let l = manager.list(&agent_api_model::ListRequest { limit: Some(limit), ..Default::default() });
        eprintln!("list {limit} {:?}", t.elapsed());
        drop(l);
    }
    let now = Now { elapsed: Duration::from_secs(1), wall: Timestamp::now() };
    let t = std::time::Instant::now();
    for i in 0..20_000 {
        let body = CommandBody::Create(Arc::new(spec(&format!("new-{i}"))));
        let a = part.admit(Command { meta: meta(&format!("k{i}")), guid: Guid::generate(), body }, now).unwrap();
        drop(a);
    }
    eprintln!("admit create {:?} each", t.elapsed() / 20_000);
    eprintln!("size of view {} spec {} object {}", size_of::<ObjectView>(), size_of::<ObjectSpec>(), size_of::<crate::record::Object>());
}
