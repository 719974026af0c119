"""Reviews: a question about a run goes to a reviewer, the reply is read strictly and kept with its origin."""
