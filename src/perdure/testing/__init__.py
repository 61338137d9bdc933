"""What tests of workflows need: virtual time, crashes on purpose, mocks, replay. Never imported by the rest."""
