"""An unchanged program under observation: how it runs, and how its steps are recognised."""
