import math

from sage.libs.finetune.agent import AgentTrajectory, TrajectoryStep
from sage.libs.finetune.agent.environments.desk import DeskEnvironment, desk_tasks
from sage.libs.finetune.agent.evaluation.episodes import AFTER_GOAL, REFUSED, REPEATED, score_episodes, wasted_calls

TOOLS = [{"type": "function", "function": {"name": name}} for name in ("look", "take", "wait")]


def step(action, observation="", reward=0.0, error=None, **arguments):
    return TrajectoryStep("", action, arguments, observation, reward, error)


def episode(*steps, success=False):
    return AgentTrajectory("a", "?", list(steps), success=success, tools=TOOLS)


def test_refused_calls_are_wasted():
    steps = [
        step("fly"),
        step("invalid", error="unreadable"),
        step("take", "You cannot.", error="failed"),
        step("take"),
    ]
    assert wasted_calls(episode(*steps)) == {0: REFUSED, 1: REFUSED, 2: REFUSED}


def test_a_call_made_again_is_wasted_only_when_nothing_changed():
    again = [step("look", "A lamp.", at="desk"), step("look", "A lamp.", at="desk")]
    assert wasted_calls(episode(*again)) == {1: REPEATED}
    changed = [again[0], step("take", "Taken."), step("look", "Nothing.", at="desk")]
    assert wasted_calls(episode(*changed)) == {}
    elsewhere = [again[0], step("look", "A lamp.", at="wall")]
    assert wasted_calls(episode(*elsewhere)) == {}
    paid = [step("wait", "You wait.", 0.1), step("wait", "You wait.", 0.1)]
    assert wasted_calls(episode(*paid)) == {}


def test_calls_after_the_goal_are_wasted_where_the_environment_tells():
    steps = [step("take", "Done.", 1.0), step("look", "A lamp."), step("finish", answer="ok")]
    assert wasted_calls(episode(*steps, success=True)) == {1: AFTER_GOAL}
    assert wasted_calls(episode(*steps, success=False)) == {}
    told_at_the_end = [step("take", "Done."), step("look", "A lamp."), step("finish", reward=1.0, answer="ok")]
    assert wasted_calls(episode(*told_at_the_end, success=True)) == {}


def test_words_to_the_user_are_steps_but_no_calls():
    score = score_episodes(
        [episode(step("respond", "Yes.", content="Go on?"), step("look"), step("finish", answer="x"))]
    )
    assert (score.steps, score.calls, score.calls_valid) == (3, 1, 1)


def test_the_score_counts_steps_and_wasted_calls_by_reason():
    one = episode(
        step("look", "A."), step("look", "A."), step("fly"), step("take", reward=1.0), step("wait"), success=True
    )
    score = score_episodes([one, episode(step("finish", answer="x"))])
    assert score.wasted == {REFUSED: 1, AFTER_GOAL: 1, REPEATED: 1}
    assert (score.steps, score.mean_steps, score.wasted_share) == (6, 3.0, 3 / 5)
    assert math.isnan(score_episodes([]).mean_steps) and math.isnan(score_episodes([]).wasted_share)


def test_on_the_desk_a_read_made_twice_is_wasted():
    desk = DeskEnvironment()
    task = next(task for task in desk_tasks("train", 40) if task["metadata"]["kind"] == "order_status")
    desk.reset(task)
    name = task["tools"][0]["function"]["name"]
    steps = []
    for _ in range(2):
        result = desk.step(name, {"nonsense": 1})
        steps.append(TrajectoryStep("", name, {"nonsense": 1}, result.observation, result.reward, result.error))
    assert wasted_calls(AgentTrajectory("a", "?", steps, tools=task["tools"])) == {0: REFUSED, 1: REFUSED}
