//! Lists, plans, and many objects.

use agent_api_model::{Diagnostic, ListRequest, PlanRequest};

use super::*;

#[test]
fn lists_are_by_name_and_in_pages() {
    let mut world = World::with(3, Arc::new(RealVfs::new()), |_| {});
    for n in 0..700 {
        let app = if n % 2 == 0 { "even" } else { "odd" };
        world
            .create(spec_with(&format!("o{n:03}"), json!({"labels": {"app": app}})))
            .unwrap();
    }
    world.settle_all();
    let names = |request: &ListRequest| -> Vec<String> {
        world
            .manager
            .list(request)
            .iter()
            .map(|view| view.name.to_string())
            .collect()
    };
    let all = names(&ListRequest::default());
    assert_eq!(all.len(), 700);
    assert!(all.is_sorted());
    let mut paged = Vec::new();
    loop {
        let page = names(&ListRequest {
            limit: Some(99),
            after: paged.last().map(|last: &String| name(last)),
            ..Default::default()
        });
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, all);
    let odd = names(&ListRequest {
        selector: "app=odd,kind=fake".parse().unwrap(),
        phase: Some(agent_api_model::Phase::Running),
        limit: Some(2),
        ..Default::default()
    });
    assert_eq!(odd, ["o001", "o003"]);
    assert!(
        names(&ListRequest {
            limit: Some(0),
            ..Default::default()
        })
        .is_empty()
    );
    let guid = world.guid("o001");
    assert_eq!(world.manager.resolve(&Target::Guid(guid)), Some(guid));
    assert_eq!(world.manager.resolve(&Target::Guid(Guid::generate())), None);
}

#[test]
fn plans_change_nothing_and_are_true() {
    let mut world = World::new();
    world.made(spec("a"));
    let records = world.manager.stats().journal.records;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let plan = |world: &World, request: PlanRequest| runtime.block_on(world.manager.plan(&request));
    let apply = |fields| PlanRequest::Apply(Box::new(spec_with("a", fields)));
    assert_eq!(plan(&world, apply(json!({}))).unwrap().action, PlanAction::NoOp);
    let changed = plan(&world, apply(json!({"spec": {"x": 1}}))).unwrap();
    assert_eq!(
        (changed.action, changed.changes[0].path.as_str()),
        (PlanAction::Restart, "spec.x")
    );
    let labels = plan(&world, apply(json!({"labels": {"x": "1"}}))).unwrap();
    assert_eq!(labels.action, PlanAction::InPlace);
    assert!(labels.reason.contains("the agent itself"));
    let update = PlanRequest::Update {
        object: Target::Name(name("a")),
        change: Change::Merge(json!({"resources": {"cpu": "1"}})),
    };
    assert_eq!(plan(&world, update).unwrap().changes[0].path, "resources.cpu");
    let create = plan(
        &world,
        PlanRequest::Apply(Box::new(spec_with("b", json!({"depends_on": [{"name": "z"}]})))),
    )
    .unwrap();
    assert_eq!(create.action, PlanAction::Create);
    assert!(create.reason.contains("z to be created"), "{}", create.reason);
    let secret = spec_with("b", json!({"spec": {"token": "canary"}}));
    let secret = format!(
        "{:?}",
        plan(&world, PlanRequest::Apply(Box::new(secret))).unwrap()
    );
    assert!(
        secret.contains("hidden") && !secret.contains("canary"),
        "{secret}"
    );
    world.made(spec_with("c", json!({"depends_on": [{"name": "a"}]})));
    let delete = |cascade| PlanRequest::Delete {
        object: Target::Name(name("a")),
        cascade,
    };
    assert_eq!(
        plan(&world, delete(false)).unwrap().action,
        PlanAction::Infeasible
    );
    let cascade = plan(&world, delete(true)).unwrap();
    assert_eq!(
        (cascade.action, cascade.reason.as_str()),
        (PlanAction::Delete, "deleted first: c")
    );
    let nobody = PlanRequest::Delete {
        object: Target::Name(name("nobody")),
        cascade: false,
    };
    assert_eq!(plan(&world, nobody).unwrap_err().kind(), ErrorKind::NotFound);
    world.fake().refuses(Diagnostic::error("spec.x", "no"));
    let refused = plan(&world, apply(json!({"spec": {"x": 2}}))).unwrap();
    assert_eq!(
        (refused.action, refused.diagnostics.len()),
        (PlanAction::Infeasible, 1)
    );
    assert_eq!(
        world.manager.stats().journal.records,
        records + 2,
        "only the create of c"
    );
}

#[test]
fn ten_thousand_objects() {
    let mut world = World::with(2, Arc::new(RealVfs::new()), |config| {
        config.journal.queue_bytes = 64 << 20
    });
    let mut waiting = Vec::new();
    for n in 0..10_000 {
        let body = CommandBody::Create(Arc::new(spec(&format!("o{n}"))));
        let mut admission = world.admit(&format!("k{n}"), Guid::generate(), body).unwrap();
        let follow_ups = std::mem::take(&mut admission.follow_ups);
        world.perform(follow_ups);
        waiting.push(admission.commit);
    }
    for commit in waiting {
        commit.now_or_never().unwrap().unwrap();
    }
    while world.run_one() {}
    let info = world.manager.stats();
    assert!(info.journal.commits < info.journal.records, "one commit for many");
    assert_eq!(info.objects, [(agent_api_model::Phase::Running, 10_000)]);
    let driver = agent_api_model::DriverName::new("fake").unwrap();
    let audited: usize = world
        .parts
        .iter()
        .flat_map(|part| part.audit(&driver, 500))
        .map(|chunk| chunk.len())
        .sum();
    assert_eq!(audited, 10_000);
    assert_eq!(world.manager.list(&ListRequest::default()).len(), 10_000);
    world.crash();
    assert_eq!(world.report.adopted, 10_000);
}
