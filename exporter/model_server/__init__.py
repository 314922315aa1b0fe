"""Model servers of any engine in one vocabulary: `model_server_*{server,engine,model}`."""
