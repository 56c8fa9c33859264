# Every target but `check` is a verb of start.sh, which makes the environment first.
VERBS := test slow real floor docs bench bench-check

.PHONY: help check $(VERBS)

help:
	@bash start.sh --help

# All that CI runs: style, types and every test, part by part.
check:
	bash .ci/run

$(VERBS):
	bash start.sh $@
