package holdgate.spring;

import holdgate.Client;
import jakarta.servlet.http.HttpServletRequest;
import java.io.IOException;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.boot.web.servlet.context.ServletWebServerInitializedEvent;
import org.springframework.context.annotation.Bean;
import org.springframework.context.event.EventListener;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.RestController;

/** A small application behind the filter; see docs/gateways/spring.md. */
@SpringBootApplication
@RestController
public class Gateway {
  public static void main(String[] arguments) {
    SpringApplication.run(Gateway.class, arguments);
  }

  @Bean
  Client holdgate(@Value("${holdgate.address:127.0.0.1:50051}") String address) throws IOException {
    return new Client(address, "llm", new Client.Tls(null, null, null));
  }

  @GetMapping("/")
  String work(@RequestParam(name = "used", defaultValue = "0") long used, HttpServletRequest request) {
    request.setAttribute(QuotaFilter.USED, used);
    return "the work";
  }

  @EventListener
  void listens(ServletWebServerInitializedEvent event) {
    System.out.printf("gateway on 127.0.0.1:%d%n", event.getWebServer().getPort());
  }
}
