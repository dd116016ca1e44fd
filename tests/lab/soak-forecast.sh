# soak.sh, by forecast: each successor takes over what is known of its predecessors.
BY=forecast
. "$TOP/tests/lab/soak.sh"
