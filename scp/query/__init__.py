"""Query/Retrieve over Orthanc's index: the information models, the candidates of a query, what is computed of them."""
