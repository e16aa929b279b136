"""What a day does and in which order; what the sanitizer and a rehearsal leave out."""

import pathlib

from gpu_day import plan

PROGRAMS = ["gpu_generation_test", "gpu_rope_test"]
CHOICES = plan.Choices(bin=pathlib.Path("/b/bin"), build=True, architecture="90a-real", jobs=3)


def test_tests_come_before_figures_and_the_sanitizer_last():
    kinds = [stage.kind for stage in plan.plan(CHOICES, PROGRAMS)]
    first = {kind: kinds.index(kind) for kind in kinds}
    assert first["build"] == 0
    assert first["test"] < first["sweep"] < first["bench"] < first["peer"] < first["sanitizer"]
    assert kinds[-1] == "sanitizer"


def test_names_are_unique_and_every_stage_has_a_limit():
    stages = plan.plan(CHOICES, PROGRAMS)
    assert len({stage.name for stage in stages}) == len(stages)
    assert all(5 <= stage.limit_s <= 600 for stage in stages)


def test_the_build_is_of_the_devices_architecture_only():
    assert plan.plan(CHOICES, [])[0].command == (".ci/compile-cuda", "3", "gpu-day", "90a-real")


def test_a_prebuilt_folder_is_not_built():
    assert all(stage.kind != "build" for stage in plan.plan(plan.Choices(bin=pathlib.Path("/b")), PROGRAMS))


def test_rates_are_asked_for_at_every_batch_of_the_goals():
    batches = {(stage.command[stage.command.index("--model") + 1].split(":")[2], batch)
               for stage in plan.bench_stages(CHOICES) if "--batch" in stage.command
               for batch in stage.command[stage.command.index("--batch") + 1].split(",")}
    assert batches == {(form, batch) for form in ("int4-g128", "fp8") for batch in ("1", "8", "32", "128", "256")}
    assert [stage.name for stage in plan.bench_stages(CHOICES) if "4096" in stage.command] == [
        "prefill int4-g128", "prefill int4-g128 --cuda-wide-rows", "prefill fp8", "prefill fp8 --cuda-w8a8",
        "prefill fp8 --cuda-w8a8 --cuda-wide-rows"]


def test_what_is_off_by_default_is_measured_once_beside_it():
    for flag, form in ((plan.W8A8, "fp8"), (plan.DEPENDENT, "int4-g128"), (plan.WIDE, "int4-g128")):
        named = [stage for stage in plan.bench_stages(CHOICES) if flag in stage.command]
        assert any(form in stage.name for stage in named) and all(flag in stage.name for stage in named)
    flags = pathlib.Path(__file__).parents[2] / "cli" / "model_flags.cc"
    assert all(f'"{flag}"' in flags.read_text() for flag in plan.FLAGS)


def test_int4s_rates_come_before_torch_and_fp8s_after():
    names = [stage.name for stage in plan.plan(CHOICES, [])]
    peers = names.index("peers")
    assert all((names.index(stage.name) < peers) == ("int4" in stage.name) for stage in plan.bench_stages(CHOICES))


def test_the_sanitizer_takes_small_shapes_of_kernels_and_not_the_whole_road():
    stages = plan.sanitizer_stages(CHOICES, PROGRAMS)
    assert [stage.name for stage in stages] == ["memcheck gpu_rope_test", "racecheck gpu_rope_test"]
    assert all(f"--gtest_filter={plan.SANITIZED['gpu_rope_test']}" in stage.command for stage in stages)


def test_a_program_that_the_plan_does_not_know_is_sanitized_as_a_whole():
    assert "--gtest_filter=*" in plan.sanitizer_stages(CHOICES, ["gpu_new_test"])[0].command


def test_shapes_of_a_cuda_kernel_are_timed_on_a_device_only():
    rehearsal = plan.Choices(bin=pathlib.Path("/b"), device="cpu", small=True)
    of_device, of_cpu = ([stage.command[2] for stage in plan.sweep_stages(choices)] for choices in (CHOICES, rehearsal))
    assert "shapes" in of_device and of_cpu == [what for what in of_device if what != "shapes"]


def test_a_rehearsal_is_small_and_on_the_cpu():
    rehearsal = plan.Choices(bin=pathlib.Path("/b"), device="cpu", small=True)
    for stage in plan.sweep_stages(rehearsal):
        assert stage.command[1] == "cpu" and stage.command[-1] == "small"
    assert plan.peer_stage(rehearsal).command[-2:] == ("cpu", "small")
    (bench,) = plan.bench_stages(rehearsal)
    assert "random:smollm2-135m:int4-g32" in bench.command


def test_programs_are_found_by_name(tmp_path):
    for name in ("gpu_b_test", "gpu_a_test", "nibble", "gpu_notes.txt"):
        (tmp_path / name).touch()
    assert plan.test_programs(tmp_path) == ["gpu_a_test", "gpu_b_test"]
    assert plan.test_programs(tmp_path / "none") == []
