include tests/guests/guests.mk
